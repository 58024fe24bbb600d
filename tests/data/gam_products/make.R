# Writes cases.json, the truth of tests/smooths/test_products.py: Rscript make.R (mgcv, jsonlite).
suppressMessages({library(mgcv); library(jsonlite)})

golden <- function(n, k) (seq_len(n) * (sqrt(5) - 1) / 2 * k) %% 1
n <- 160
d <- data.frame(x = round(golden(n, 1), 3), z = round(10 * golden(n, 7), 2), v = round(golden(n, 19), 3) - 4,
                w = round(2 * golden(n, 11) + 0.5, 2), f = rep(c("a", "b", "c", "b", "a"), n / 5),
                g = rep(c("p", "q", "r", "s", "t", "u", "v", "w"), each = n / 8))
noise <- qnorm(golden(n, 29))
effect <- c(p = 0.4, q = -0.3, r = 0.1, s = 0.8, t = -0.5, u = -0.2, v = 0.3, w = -0.6)[d$g]
d$y <- round(2 * sin(5 * d$x) * cos(d$z / 2) + d$v + effect + 0.4 * noise, 4)
eta <- sin(5 * d$x) * cos(d$z / 2) + 0.6 * effect
d$count <- qpois(golden(n, 37), exp(0.6 + eta))
d$yes <- as.integer(golden(n, 41) < plogis(1.5 * eta))
d$wait <- round(qgamma(golden(n, 43), 3, 3 / exp(eta)), 4)
d$f <- factor(d$f); d$g <- factor(d$g)

case <- function(formula, family = "gaussian", method = "REML", select = FALSE)
  list(formula = formula, family = family, method = method, select = select)
specs <- list(
  case("y ~ te(x, z)"), case("y ~ te(x, z)", method = "ML"), case("y ~ te(x, z)", select = TRUE),
  case("y ~ te(x, z)", method = "ML", select = TRUE), case("y ~ s(x, bs='cr', k=6) + s(z, bs='cr', k=6) + ti(x, z, k=4)"),
  case("y ~ te(x, z, bs=c('tp','ps'), k=c(5,6))"), case("y ~ te(x, z, bs=c('cc','cr'), k=c(6,4))"),
  case("y ~ te(x, z, v, k=3)"), case("y ~ te(x, z, v, k=c(5,3), d=c(2,1), bs=c('tp','cr'))"),
  case("y ~ te(x, g, bs=c('cr','re'), k=c(4,8))"), case("y ~ te(x, z, by=w, k=4)"), case("y ~ f + te(x, z, by=f, k=3)"),
  case("y ~ te(x, z, k=4) + s(g, bs='re')"), case("y ~ te(x, z, k=4) + s(g, bs='re')", method = "ML"),
  case("y ~ s(g, bs='re')"), case("y ~ s(x, bs='cr', k=5) + s(z, bs='cr', k=5) + ti(x, z, k=4)", select = TRUE),
  case("count ~ te(x, z, k=4)", "poisson"), case("count ~ te(x, z, k=4) + s(g, bs='re')", "poisson"),
  case("count ~ te(x, z, k=4)", "poisson", select = TRUE), case("yes ~ te(x, z, k=4)", "binomial"),
  case("wait ~ te(x, z, k=4)", "gamma"), case("y ~ ti(x) + ti(z, k=6) + ti(x, z, k=4)"),
  case("count ~ ti(x) + ti(z) + ti(x, z)", "poisson"))
families <- list(gaussian = gaussian(), poisson = poisson(), binomial = binomial(), gamma = Gamma(link = "log"))

tight <- gam.control(epsilon = 1e-13, newton = list(conv.tol = 1e-11, maxNstep = 5, maxSstep = 2, maxHalf = 30, use.svd = FALSE))
run <- function(s, sp = NULL)
  gam(as.formula(s$formula), families[[s$family]], d, method = s$method, select = s$select, control = tight, sp = sp)
out <- lapply(specs, function(s) {
  m <- run(s)
  at <- exp(round(log(pmin(pmax(m$sp, 1e-4), 1e4)), 1))
  h <- run(s, at)
  c(s, list(score = unname(m$gcv.ubre[1]), sp = unname(m$sp), scale = m$reml.scale, edf = unname(sapply(m$smooth, function(p)
    sum(m$edf[p$first.para:p$last.para]))), fitted = unname(fitted(m)[1:8]),
    at = list(sp = unname(at), score = unname(h$gcv.ubre[1]), scale = h$reml.scale, edf = unname(sum(h$edf)), fitted = unname(fitted(h)[1:8]))))
})
version <- paste("R", getRversion(), ", mgcv", packageVersion("mgcv"))
write(toJSON(list(software = version, rows = as.list(d), cases = out), digits = NA, auto_unbox = TRUE), "cases.json")
