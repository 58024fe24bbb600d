# SPDX-License-Identifier: BSD-3-Clause
# Rscript glmm.R PACKAGE FAMILY DATA.csv FORMULA GROUP…: as lmer.R, with lme4's glmer (nAGQ = 1) or glmmTMB.

arguments <- commandArgs(trailingOnly = TRUE)
package <- arguments[1]
suppressPackageStartupMessages(library(package, character.only = TRUE))
family <- list(poisson = poisson(), bernoulli = binomial())[[arguments[2]]]
data <- read.csv(arguments[3])
formula <- as.formula(arguments[4])
groups <- arguments[-(1:4)]
data[groups] <- lapply(data[groups], factor)

fit_once <- if (package == "lme4") {
  function() glmer(formula, data, family = family, nAGQ = 1)
} else {
  function() glmmTMB(formula, data, family = family)
}
numbers <- function(x) paste0("[", paste(sprintf("%.17g", x), collapse = ", "), "]")

answer <- function(fit, used) {
  parts <- if (package == "lme4") VarCorr(fit) else VarCorr(fit)$cond
  beta <- if (package == "lme4") fixef(fit) else fixef(fit)$cond
  sprintf(
    '{"wall": %.9g, "cpu": %.9g, "log_likelihood": %.17g, "beta": %s, "sd": %s}',
    used[["elapsed"]], used[["user.self"]] + used[["sys.self"]], logLik(fit), numbers(beta),
    numbers(sapply(groups, function(g) attr(parts[[g]], "stddev")))
  )
}

writeLines("ready")
flush(stdout())
asked <- file("stdin", "r")
while (length(readLines(asked, 1))) {
  used <- system.time(fit <- fit_once(), gcFirst = FALSE)
  writeLines(answer(fit, used))
  flush(stdout())
}
