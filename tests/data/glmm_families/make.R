# Responses of every family, simulated, and their fits by glmmTMB 1.1.5: maximum likelihood, Laplace's method.
# Run in this folder: Rscript make.R
suppressMessages(library(glmmTMB))
options(digits = 12)
set.seed(20)
n <- 240
d <- data.frame(
  g = factor(rep(1:30, each = 8)), h = factor(rep(1:12, 20)),
  x = round(rnorm(n), 4), z = round(runif(n), 4), e = round(runif(n, 1, 5), 4)
)
intercept <- rnorm(30, 0, 0.5)
slope <- rnorm(30, 0, 0.3)
crossed <- rnorm(12, 0, 0.4)
eta <- 0.5 + 0.4 * d$x - 0.6 * d$z + intercept[d$g] + slope[d$g] * d$x
d$gamma <- signif(rgamma(n, 3, 3 / exp(eta + crossed[d$h])), 6)
mu <- plogis(eta)
d$beta <- round(rbeta(n, mu * 8, (1 - mu) * 8), 6)
d$counts <- rnbinom(n, mu = d$e * exp(eta), size = 1.7)
d$poisson <- rpois(n, exp(eta + crossed[d$h]))
d$trials <- rep(1:6, length.out = n)
d$probit <- rbinom(n, d$trials, pnorm(eta))
d$cloglog <- rbinom(n, d$trials, 1 - exp(-exp(eta - 1)))
d$t <- round(eta + 0.5 * rt(n, 4), 6)
write.csv(d, "data.csv", row.names = FALSE, quote = FALSE)

fits <- list(
  gamma_slopes = function(...) glmmTMB(gamma ~ x + z + (x | g), d, Gamma("log"), ...),
  gamma_crossed = function(...) glmmTMB(gamma ~ x + z + (1 | g) + (1 | h), d, Gamma("log"), ...),
  beta_intercepts = function(...) glmmTMB(beta ~ x + z + (1 | g), d, beta_family(), ...),
  beta_slopes = function(...) glmmTMB(beta ~ x + (x || g), d, beta_family(), ...),
  nbinom_offset = function(...) glmmTMB(counts ~ x + z + (1 | g) + offset(log(e)), d, nbinom2(), ...),
  nbinom_slopes = function(...) glmmTMB(counts ~ x + z + (x | g) + offset(log(e)), d, nbinom2(), ...),
  poisson_crossed = function(...) glmmTMB(poisson ~ x + z + (1 | g) + (1 | h), d, poisson(), ...),
  binomial_probit = function(...) glmmTMB(cbind(probit, trials - probit) ~ x + z + (1 | g), d, binomial("probit"), ...),
  binomial_cloglog = function(...) {
    glmmTMB(cbind(cloglog, trials - cloglog) ~ x + z + (x | g), d, binomial("cloglog"), ...)
  },
  student = function(...) glmmTMB(t ~ x + z + (1 | g), d, t_family(), ...)
)
to_the_end <- glmmTMBControl(optCtrl = list(rel.tol = 1e-15, x.tol = 1e-12, iter.max = 1000, eval.max = 1000))
table <- NULL
for (name in names(fits)) {
  first <- fits[[name]]()
  start <- list(
    beta = fixef(first)$cond, theta = getME(first, "theta"), betad = first$fit$par[names(first$fit$par) == "betad"]
  )
  fit <- try(suppressWarnings(fits[[name]](start = start, control = to_the_end)), silent = TRUE)
  if (inherits(fit, "try-error")) fit <- first
  coefficients <- summary(fit)$coefficients$cond
  covariances <- VarCorr(fit)$cond
  sds <- unlist(lapply(covariances, function(m) attr(m, "stddev")))
  cors <- unlist(lapply(covariances, function(m) attr(m, "correlation")[upper.tri(m)]))
  values <- c(
    logLik = as.numeric(logLik(fit)), setNames(sds, paste0("sd.", seq_along(sds))),
    if (length(cors)) setNames(cors, paste0("cor.", seq_along(cors))), dispersion = unname(sigma(fit)),
    setNames(coefficients[, 1], paste0("beta.", rownames(coefficients))),
    setNames(coefficients[, 2], paste0("se.", rownames(coefficients)))
  )
  table <- rbind(table, data.frame(fit = name, quantity = names(values), value = unname(values)))
}
write.csv(table, "fits.csv", row.names = FALSE, quote = FALSE)
