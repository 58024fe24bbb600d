# SPDX-License-Identifier: BSD-3-Clause
# Rscript gam.R FUNCTION FAMILY DATA.csv FORMULA: as lmer.R, with mgcv's gam by REML or bam(discrete = TRUE) by fREML.

arguments <- commandArgs(trailingOnly = TRUE)
suppressPackageStartupMessages(library(mgcv))
family <- list(gaussian = gaussian(), poisson = poisson())[[arguments[2]]]
data <- read.csv(arguments[3])
formula <- as.formula(arguments[4])

fit_once <- if (arguments[1] == "gam") {
  function() gam(formula, family = family, data = data, method = "REML")
} else {
  function() bam(formula, family = family, data = data, discrete = TRUE)
}
numbers <- function(x) paste0("[", paste(sprintf("%.17g", x), collapse = ", "), "]")

writeLines("ready")
flush(stdout())
asked <- file("stdin", "r")
while (length(readLines(asked, 1))) {
  used <- system.time(fit <- fit_once(), gcFirst = FALSE)
  writeLines(sprintf(
    '{"wall": %.9g, "cpu": %.9g, "score": %.17g, "variance": %.17g, "sp": %s}',
    used[["elapsed"]], used[["user.self"]] + used[["sys.self"]], fit$gcv.ubre, fit$sig2, numbers(fit$sp)
  ))
  flush(stdout())
}
