# SPDX-License-Identifier: BSD-3-Clause
# Rscript lmer.R DATA.csv FORMULA GROUP…: reads the data, then fits once for each line of standard input, and answers
# with its seconds and its estimates in JSON.

suppressPackageStartupMessages(library(lme4))
arguments <- commandArgs(trailingOnly = TRUE)
data <- read.csv(arguments[1])
formula <- as.formula(arguments[2])
groups <- arguments[-(1:2)]
data[groups] <- lapply(data[groups], factor)

numbers <- function(x) paste0("[", paste(sprintf("%.17g", x), collapse = ", "), "]")

answer <- function(fit, used) {
  covariances <- sapply(groups, function(g) sprintf('"%s": %s', g, numbers(VarCorr(fit)[[g]])))
  sprintf(
    '{"wall": %.9g, "cpu": %.9g, "noise": %.17g, "log_evidence": %.17g, "covariances": {%s}}',
    used[["elapsed"]], used[["user.self"]] + used[["sys.self"]], sigma(fit)^2, logLik(fit),
    paste(covariances, collapse = ", ")
  )
}

writeLines("ready")
flush(stdout())
asked <- file("stdin", "r")
while (length(readLines(asked, 1))) {
  used <- system.time(fit <- lmer(formula, data, REML = TRUE), gcFirst = FALSE)
  writeLines(answer(fit, used))
  flush(stdout())
}
