# Writes cases.json, the truth of tests/smooths/test_bases.py: Rscript make.R (mgcv, jsonlite).
suppressMessages({library(mgcv); library(jsonlite)})

golden <- function(n, k) (seq_len(n) * (sqrt(5) - 1) / 2 * k) %% 1
n <- 40
d <- data.frame(x = round(golden(n, 1)^2 * 3, 2), z = round(10 * golden(n, 7), 1), v = round(golden(n, 19) - 4, 3),
                w = round(2 * golden(n, 11) + 0.5, 2), f = rep(c("a", "b", "c", "b", "a"), 8), g = rep(c("p", "q"), each = 20))
d$x[c(3, 17, 30)] <- d$x[5]
new <- data.frame(x = c(-0.7, 0, 0.111, 1.3, 2.222, 3.1, 4.5), z = c(3, -2, 5.55, 9.9, 0.4, 12, 7), w = c(1, 2, 0.3, 0, 1, 1.5, 1),
                  v = c(-3.5, -3.9, -4.2, -3.1, -2.5, -3.333, -3.7), f = c("a", "c", "b", "b", "a", "c", "a"), g = c("q", "p", "q", "q", "p", "p", "q"))
long <- data.frame(x = golden(2500, 1), z = golden(2500, 7))
frames <- list(short = d, long = long)
at <- list(short = seq(1, n, 3), long = c(1, 2, 1000, 1777, 2500))

case <- function(name, type, x, ..., data = "short") list(name = name, type = type, x = x, data = data, args = list(...))
specs <- list(
  case("tp", "s", "x"),
  case("tp of seven", "s", "x", k = 7),
  case("tp as small as can be", "s", "x", k = 3),
  case("tp of third order", "s", "x", k = 6, m = 3),
  case("tp of first order", "s", "x", k = 6, m = 1),
  case("tp in the plane", "s", c("x", "z"), k = 12),
  case("tp in the plane by default", "s", c("x", "z")),
  case("tp in the plane, third order", "s", c("x", "z"), k = 14, m = 3),
  case("tp in space", "s", c("x", "z", "v"), k = 15),
  case("tp with knots", "s", "x", k = 6, knots = list(x = c(0, 0.2, 0.5, 0.8, 1.2, 1.7, 1.9, 2.4, 2.9))),
  case("tp through its knots", "s", "x", k = 5, knots = list(x = c(0, 0.5, 1.2, 1.9, 2.9))),
  case("tp with thinned knots", "s", "x", k = 6, max_knots = 20),
  case("tp in the plane with knots", "s", c("x", "z"), k = 7,
       knots = list(x = c(0, 0.3, 0.9, 1.1, 1.3, 2, 2.6, 2.9, 2.8), z = c(1, 8, 3, 9, 6, 2, 4, 9, 0))),
  case("tp in the plane through its knots", "s", c("x", "z"), k = 5, knots = list(x = c(0, 0.3, 0.9, 2, 2.6), z = c(1, 8, 3, 2, 7))),
  case("tp of many rows", "s", "x", k = 8, data = "long"),
  case("tp by a number", "s", "x", k = 6, by = "w"),
  case("tp by a factor", "s", "x", k = 6, by = "f"),
  case("tp select", "s", "x", k = 7, select = TRUE),
  case("tp select by a number", "s", "x", k = 7, by = "w", select = TRUE),
  case("cr", "s", "x", bs = "cr"),
  case("cr of seven", "s", "x", bs = "cr", k = 7),
  case("cr as small as can be", "s", "x", bs = "cr", k = 3),
  case("cr with knots", "s", "x", bs = "cr", k = 5, knots = list(x = c(0, 0.1, 1.1, 2.2, 3))),
  case("cr by a number", "s", "x", bs = "cr", k = 6, by = "w"),
  case("cr by a factor", "s", "x", bs = "cr", k = 6, by = "f"),
  case("cr select", "s", "x", bs = "cr", k = 7, select = TRUE),
  case("cc", "s", "x", bs = "cc"),
  case("cc of seven", "s", "x", bs = "cc", k = 7),
  case("cc as small as can be", "s", "x", bs = "cc", k = 4),
  case("cc with knots", "s", "x", bs = "cc", k = 6, knots = list(x = c(-0.1, 0.5, 0.7, 1.5, 2.6, 3.2))),
  case("cc with a period", "s", "x", bs = "cc", k = 8, knots = list(x = c(-0.5, 3.5))),
  case("ps", "s", "x", bs = "ps"),
  case("ps of seven", "s", "x", bs = "ps", k = 7),
  case("ps, first differences", "s", "x", bs = "ps", k = 8, m = c(2, 1)),
  case("ps, quadratic", "s", "x", bs = "ps", k = 8, m = c(1, 2)),
  case("ps, third differences", "s", "x", bs = "ps", k = 9, m = c(3, 3)),
  case("ps with a range", "s", "x", bs = "ps", k = 8, knots = list(x = c(-0.1, 3.2))),
  case("ps with knots", "s", "x", bs = "ps", k = 6, knots = list(x = c(-3, -2, -1, -0.1, 1, 2.3, 3.2, 4, 5, 6))),
  case("re of a factor", "s", "f", bs = "re"),
  case("re of a number", "s", "x", bs = "re"),
  case("re of slopes", "s", c("f", "x"), bs = "re"),
  case("re of two factors", "s", c("f", "g"), bs = "re"),
  case("re by a number", "s", "f", bs = "re", by = "w"),
  case("te", "te", c("x", "z"), k = c(5, 4)),
  case("te of three", "te", c("x", "z", "v"), k = 3),
  case("te of tp", "te", c("x", "z"), bs = "tp", k = c(4, 5)),
  case("te of tp and ps", "te", c("x", "z"), bs = c("tp", "ps"), k = c(4, 6)),
  case("te of cc and cr", "te", c("x", "z"), bs = c("cc", "cr"), k = c(6, 4)),
  case("te of a plane and a line", "te", c("x", "z", "v"), bs = c("tp", "cr"), k = c(6, 4), d = c(2, 1)),
  case("te with knots", "te", c("x", "z"), k = c(4, 3), knots = list(x = c(0, 0.5, 1.5, 3), z = c(0, 4, 10))),
  case("te by a number", "te", c("x", "z"), k = c(4, 3), by = "w"),
  case("te by a factor", "te", c("x", "z"), k = c(4, 3), by = "f"),
  case("te of a factor and a line", "te", c("f", "x"), bs = c("re", "cr"), k = c(3, 5)),
  case("te select", "te", c("x", "z"), k = c(4, 3), select = TRUE),
  case("ti", "ti", c("x", "z"), k = c(5, 4)),
  case("ti of one", "ti", "x", k = 6),
  case("ti of tp", "ti", c("x", "z"), bs = "tp", k = c(4, 5)),
  case("ti of ps and cc", "ti", c("x", "z"), bs = c("ps", "cc"), k = c(6, 5)),
  case("ti of three", "ti", c("x", "z", "v"), k = 4),
  case("ti by a number", "ti", c("x", "z"), k = c(4, 3), by = "w"))

build <- function(spec) {
  a <- spec$args
  extra <- a[intersect(names(a), c("bs", "k", "m", "d"))]
  if (!is.null(a$by)) extra$by <- as.name(a$by)
  if (!is.null(a$max_knots)) extra$xt <- list(max.knots = a$max_knots)
  frame <- frames[[spec$data]]
  for (name in intersect(c("f", "g"), names(frame))) frame[[name]] <- factor(frame[[name]])
  term <- eval(as.call(c(as.name(spec$type), lapply(spec$x, as.name), extra)))
  smooths <- smoothCon(term, frame, knots = a$knots, absorb.cons = TRUE, null.space.penalty = isTRUE(a$select))
  points <- new
  for (name in c("f", "g")) points[[name]] <- factor(points[[name]], levels(frame[[name]]))
  spec$smooths <- lapply(smooths, function(s) list(
    X = signif(s$X[at[[spec$data]], , drop = FALSE], 12), S = lapply(s$S, signif, 12), scale = signif(s$S.scale, 12),
    null = s$null.space.dim, new = signif(PredictMat(s, points), 12)))
  if (spec$type == "te" || spec$type == "ti") for (j in c("k", "bs", "d")) if (!is.null(a[[j]])) spec$args[[j]] <- a[[j]]
  spec
}

write_json(list(software = paste0("R ", getRversion(), ", mgcv ", packageVersion("mgcv")), rows = d, new = new, at = lapply(at, as.integer),
                cases = lapply(specs, build)), "cases.json", dataframe = "columns", auto_unbox = TRUE, digits = I(12))
