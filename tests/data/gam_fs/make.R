# Writes cases.json, the truth of tests/smooths/test_factor_smooth.py: Rscript make.R (mgcv, jsonlite).
#
# Penalties of what a factor smooth's own penalty does not see depend on the directions in it, which mgcv 1.8-41 leaves
# to the rounding of an eigendecomposition. bs = "fs" is as mgcv has it, where this is one direction; bs = "turned" is
# the same smooth with these directions turned into the constant and what is orthogonal to it over the data: ascending
# powers of one covariate, or all others under one penalty.
suppressMessages({library(mgcv); library(jsonlite)})

smooth.construct.turned.smooth.spec <- function(object, data, knots) {
  class(object) <- "fs.smooth.spec"
  object <- smooth.construct(object, data, knots)
  k <- ncol(object$Xb); f <- object$base$null.space.dim; free <- (k - f + 1):k
  x <- scale(as.data.frame(data)[setdiff(object$term, object$fterm)], scale = FALSE)
  one <- ncol(x) == 1
  Q <- qr.Q(qr(if (one) outer(x[, 1], 0:(f - 1), "^") else cbind(1, x)))
  U <- qr.Q(qr(crossprod(object$Xb[, free], Q)))
  object$Xb[, free] <- object$Xb[, free] %*% U
  object$X <- do.call(cbind, lapply(object$flev, function(l) object$Xb * (object$fac == l)))
  if (!one) {
    object$S <- list(object$S[[1]], object$S[[2]], Reduce(`+`, object$S[-(1:2)]))
    object$rank <- c(object$rank[1:2], sum(object$rank[-(1:2)]))
  }
  object
}

golden <- function(n, k) (seq_len(n) * (sqrt(5) - 1) / 2 * k) %% 1
n <- 160
d <- data.frame(x = round(golden(n, 1), 3), z = round(golden(n, 7), 2), g = rep(c("p", "q", "r", "s", "t"), n / 5))
shift <- c(p = 0.4, q = -0.3, r = 0.1, s = 0.8, t = -0.9)[d$g]
turn <- c(p = 0.5, q = 2, r = 1.2, s = -0.6, t = -1.5)[d$g]
eta <- sin(5 * d$x) + shift + turn * d$x + 0.5 * sin(6 * d$x + 3 * turn) + 0.4 * turn * d$z
d$y <- round(eta + 0.3 * qnorm(golden(n, 29)), 4)
d$count <- qpois(golden(n, 37), exp(0.6 + 0.7 * eta))
d$g <- factor(d$g)

case <- function(formula, family = "gaussian", method = "REML")
  list(formula = formula, family = family, method = method)
specs <- list(
  case("y ~ s(x, g, bs='turned', k=6)"), case("y ~ s(x, g, bs='turned', k=6)", method = "ML"),
  case("y ~ s(x, g, bs='turned')"), case("y ~ s(x, g, bs='turned', k=6, xt='cr')"),
  case("y ~ s(g, x, bs='turned', k=6, xt='ps')"), case("y ~ s(x, g, bs='turned', k=7, m=3)"),
  case("y ~ s(x) + s(x, g, bs='turned', k=6)"), case("y ~ s(x) + s(x, g, bs='turned', k=6)", method = "ML"),
  case("y ~ z + s(x, g, bs='turned', k=6)"), case("y ~ s(x, z, g, bs='turned', k=9)"),
  case("y ~ s(x, g, bs='fs', k=6, m=1)"), case("y ~ s(x, g, bs='fs', k=6, m=1)", method = "ML"),
  case("y ~ s(x, g, bs='fs', k=6, xt='cc')"), case("y ~ s(x, g, bs='fs', k=6, m=c(2,1), xt='ps')"),
  case("count ~ s(x, g, bs='turned', k=6)", "poisson"), case("count ~ s(x, g, bs='turned', k=6)", "poisson", "ML"),
  case("count ~ s(x, g, bs='turned', k=6, xt='cr')", "poisson"), case("count ~ s(x, g, bs='fs', k=6, m=1)", "poisson"),
  case("count ~ s(x) + s(x, g, bs='turned', k=6)", "poisson"))
families <- list(gaussian = gaussian(), poisson = poisson())

tight <- gam.control(epsilon = 1e-13, newton = list(conv.tol = 1e-11, maxNstep = 5, maxSstep = 2, maxHalf = 30, use.svd = FALSE))
run <- function(s, sp = NULL)
  suppressWarnings(gam(as.formula(s$formula), families[[s$family]], d, method = s$method, control = tight, sp = sp))
out <- lapply(specs, function(s) {
  m <- run(s)
  at <- exp(round(log(pmin(pmax(m$sp, 1e-4), 1e4)), 1))
  h <- run(s, at)
  c(s, list(score = unname(m$gcv.ubre[1]), sp = unname(m$sp), scale = m$reml.scale, edf = unname(sapply(m$smooth, function(p)
    sum(m$edf[p$first.para:p$last.para]))), fitted = unname(fitted(m)[1:12]),
    at = list(sp = unname(at), score = unname(h$gcv.ubre[1]), scale = h$reml.scale, edf = unname(sum(h$edf)), intercept = unname(coef(h)[1]))))
})
version <- paste("R", getRversion(), ", mgcv", packageVersion("mgcv"))
write(toJSON(list(software = version, rows = as.list(d), cases = out), digits = NA, auto_unbox = TRUE), "cases.json")
