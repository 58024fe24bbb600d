# Fits of mgcv 1.8-41 to data that it simulates, and to data sets of R: Rscript make.R FOLDER
suppressMessages(library(mgcv)); library(jsonlite)
folder <- commandArgs(trailingOnly = TRUE)[1]
ctl <- gam.control(epsilon = 1e-12, newton = list(conv.tol = 1e-10, maxHalf = 60))
sim <- function(eg, n, seed, ...) { set.seed(seed); invisible(capture.output(d <- gamSim(eg, n = n, verbose = FALSE, ...))); d }
data <- list()
set.seed(1); d <- sim(1, 200, 11, dist = "normal", scale = 2)
e <- (d$f - mean(d$f)) / sd(d$f)
set.seed(12); d$count <- rpois(200, exp(0.5 + 0.5 * e)); d$yes <- rbinom(200, 1, plogis(1.2 * e))
d$size <- rgamma(200, 4, 4 / exp(0.4 * e)); d$hits <- rbinom(200, 8, plogis(e)); d$misses <- 8 - d$hits
d$group <- factor(sample(paste0("g", 1:9), 200, TRUE)); d$y2 <- d$y + rnorm(9)[as.integer(d$group)]
d$w <- runif(200, 0.5, 2); d$t <- runif(200, 0, 3)
data$one <- d[, c("y", "x0", "x1", "x2", "x3", "count", "yes", "size", "hits", "misses", "group", "y2", "w", "t")]
d <- sim(2, 200, 13, scale = 0.1)$data; data$two <- d[, c("y", "x", "z")]
data$four <- sim(4, 240, 14)[, c("y", "x0", "x1", "x2", "fac")]
five <- sim(5, 200, 15); five$x0 <- factor(paste0("l", five$x0)); data$five <- five[, c("y", "x0", "x1", "x2", "x3")]
data$trees <- trees
data$mcycle <- MASS::mcycle
data$airquality <- airquality[complete.cases(airquality), c("Ozone", "Wind", "Temp", "Month")]
cases <- list(
  counts = list("one", "count ~ s(x0) + s(x1) + s(x2)", "poisson", poisson()),
  yes = list("one", "yes ~ s(x1) + s(x2)", "bernoulli", binomial()),
  successes = list("one", "cbind(hits, misses) ~ s(x0, bs = 'cr') + s(x1) + s(x2)", "binomial", binomial()),
  gamma = list("one", "size ~ s(x0) + s(x1) + s(x2)", "gamma", Gamma(link = "log")),
  groups = list("one", "y2 ~ s(x2, bs = 'cr', k = 15) + s(group, bs = 're') + x1", "gaussian", gaussian()),
  varying = list("one", "y ~ s(x2) + s(t, by = x1)", "gaussian", gaussian()),
  cyclic = list("one", "y ~ s(x2, bs = 'ps', k = 12) + s(t, bs = 'cc')", "gaussian", gaussian()),
  offset = list("one", "count ~ offset(log(w)) + s(log(t))", "poisson", poisson()),
  weighted = list("one", "y ~ s(x1) + s(x2)", "gaussian", gaussian()),
  surface = list("two", "y ~ s(x, z, k = 25)", "gaussian", gaussian()),
  product = list("two", "y ~ te(x, z)", "gaussian", gaussian()),
  interaction = list("two", "y ~ s(x, bs = 'cr', k = 6) + s(z, bs = 'cr', k = 6) + ti(x, z, k = 5)", "gaussian", gaussian()),
  selected_product = list("two", "y ~ te(x, z, k = 4)", "gaussian", gaussian()),
  counts_product = list("one", "count ~ te(x1, x2, k = 4) + s(x0)", "poisson", poisson()),
  levels = list("four", "y ~ fac + s(x2, by = fac) + s(x0)", "gaussian", gaussian()),
  additive = list("five", "y ~ x0 + s(x1) + s(x2) + s(x3)", "gaussian", gaussian()),
  selected = list("five", "y ~ x0 + s(x1) + s(x2) + s(x3)", "gaussian", gaussian()),
  trees = list("trees", "Volume ~ s(Height) + s(Girth)", "gamma", Gamma(link = "log")),
  motorcycle = list("mcycle", "accel ~ s(times, k = 20)", "gaussian", gaussian()),
  ozone = list("airquality", "Ozone ~ s(Wind) + s(Temp, k = 8) + s(Month, k = 4)", "gamma", Gamma(link = "log"))
)
out <- list()
for (name in names(cases)) {
  case <- cases[[name]]; d <- data[[case[[1]]]]
  w <- if (name == "weighted") d$w else NULL
  if (!is.null(w)) d$.w <- w
  b <- tryCatch(if (is.null(w)) gam(as.formula(case[[2]]), data = d, family = case[[4]], method = "REML", control = ctl, select = grepl("selected", name))
       else gam(as.formula(case[[2]]), data = d, family = case[[4]], method = "REML", control = ctl, weights = .w), error = function(e) {cat(name, conditionMessage(e), "\n"); NULL})
  if (is.null(b)) next
  rows <- 1:6
  p <- predict(b, d[rows, ], type = "terms", se.fit = TRUE); u <- predict(b, d[rows, ], type = "terms", se.fit = TRUE, unconditional = TRUE)
  smooth <- sapply(b$smooth, function(s) s$label)
  edf <- sapply(b$smooth, function(s) sum(b$edf[s$first.para:s$last.para]))
  l <- predict(b, d[rows, ], type = "link", se.fit = TRUE)
  cols <- function(m) setNames(lapply(smooth, function(s) as.numeric(m[, s])), smooth)
  out[[name]] <- list(data = case[[1]], formula = gsub(" = ", "=", case[[2]]), family = case[[3]],
    score = as.numeric(b$gcv.ubre), sp = as.numeric(b$sp), scale = as.numeric(if (is.null(b$reml.scale)) 1 else b$reml.scale), edf = setNames(as.list(edf), smooth),
    parametric = as.list(setNames(as.numeric(b$coefficients[seq_len(b$nsdf)]), names(b$coefficients)[seq_len(b$nsdf)])),
    parametric_se = as.numeric(sqrt(diag(b$Vp))[seq_len(b$nsdf)]),
    fitted = as.numeric(fitted(b)[rows]), link_se = as.numeric(l$se.fit), effect = cols(p$fit), se = cols(p$se.fit), unconditional_se = cols(u$se.fit))
  cat(name, b$gcv.ubre, b$outer.info$conv, max(abs(b$outer.info$grad)), "\n")
}
for (name in names(data)) { d <- data[[name]]; for (c in names(d)) if (is.numeric(d[[c]])) d[[c]] <- signif(d[[c]], 15); write.csv(d, file.path(folder, paste0(name, ".csv")), row.names = FALSE, quote = FALSE) }
write_json(out, file.path(folder, "fits.json"), digits = NA, auto_unbox = TRUE, pretty = TRUE)
