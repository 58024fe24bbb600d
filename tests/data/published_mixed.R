# Writes the data and the numbers of tests/test_published_mixed.py: Rscript published_mixed.R (lme4, nlme, MASS, jsonlite).
suppressMessages({library(lme4); library(jsonlite)})

specs <- list(
  list(name = "lmm_penicillin", package = "lme4", data = "Penicillin", where = "Davies & Goldsmith 1972; Bates 2010, ch. 2",
       formula = "diameter ~ 1 + (1 | plate) + (1 | sample)"),
  list(name = "lmm_cake", package = "lme4", data = "cake", where = "Cochran & Cox 1957, table 7.5; Bates 2010",
       formula = "angle ~ recipe + temp + (1 | replicate) + (1 | recipe:replicate)"),
  list(name = "lmm_machine_slopes", package = "nlme", data = "Machines", where = "Pinheiro & Bates 2000, section 1.3",
       formula = "score ~ Machine + (0 + Machine | Worker)"),
  list(name = "lmm_pixel", package = "nlme", data = "Pixel", where = "Pinheiro & Bates 2000, section 1.5",
       formula = "pixel ~ day + I(day^2) + (day | Dog) + (1 | Dog:Side)"),
  list(name = "lmm_oxboys", package = "nlme", data = "Oxboys", where = "Goldstein 1987; Pinheiro & Bates 2000, section 3.1",
       formula = "height ~ age + I(age^2) + I(age^3) + I(age^4) + (age + I(age^2) | Subject)"),
  list(name = "lmm_assay", package = "nlme", data = "Assay", where = "Pinheiro & Bates 2000, section 4.2",
       formula = "logDens ~ sample + (1 | Block) + (1 | Block:sample) + (1 | Block:dilut)"),
  list(name = "lmm_fatigue", package = "nlme", data = "Fatigue", where = "Lu & Meeker 1993",
       formula = "relLength ~ cycles + I(cycles^2) + (cycles | Path)", start = c(0, 0, 14)),
  list(name = "glmm_bacteria", package = "MASS", data = "bacteria", where = "Venables & Ripley 2002, section 10.4",
       formula = "y ~ trt + I(week > 2) + (1 | ID)", family = "binomial"))

quiet <- list(check.conv.singular = "ignore", check.nobs.vs.nRE = "ignore", check.scaleX = "ignore")
tight <- function(optimizer, options, control = lmerControl)
  do.call(control, c(list(optimizer = optimizer, optCtrl = options), quiet))

best <- function(spec, d, reml) {
  f <- as.formula(spec$formula)
  if (!is.null(spec$family))
    return(glmer(f, d, binomial, control = tight("bobyqa", list(rhoend = 1e-9, maxfun = 2e5), function(...) glmerControl(..., tolPwrss = 1e-11))))
  rough <- lmer(f, d, REML = reml, start = spec$start,
                control = tight("nloptwrap", list(xtol_abs = 1e-12, ftol_abs = 1e-14, maxeval = 1e5)))
  fine <- lmer(f, d, REML = reml, start = getME(rough, "theta"), control = tight("bobyqa", list(rhoend = 1e-10, maxfun = 1e5)))
  if (logLik(fine) > logLik(rough)) fine else rough
}

# Standard deviations of the random effects given y, fixed effects integrated: sigma sqrt(diag(L (U'U + I)^-1 L')).
joint_sd <- function(fit) {
  L <- as.matrix(getME(fit, "Lambda"))
  U <- cbind(as.matrix(getME(fit, "Z") %*% L), as.matrix(getME(fit, "X")))
  q <- ncol(L)
  C <- solve(crossprod(U) + diag(rep(1:0, c(q, ncol(U) - q))))[1:q, 1:q]
  sigma(fit) * sqrt(pmax(0, diag(L %*% C %*% t(L))))
}

numbers <- function(fit, gaussian) {
  groups <- names(ranef(fit))
  out <- list(criterion = -2 * as.numeric(logLik(fit)), fixef = unname(fixef(fit)),
              fixef_se = unname(sqrt(diag(as.matrix(vcov(fit))))),
              covariance = lapply(VarCorr(fit)[groups], function(v) unname(matrix(v, nrow(v)))),
              ranef = lapply(ranef(fit), function(r) as.list(as.data.frame(t(r)))),
              fitted = unname(fitted(fit)),
              population = unname(predict(fit, re.form = NA, type = "response")))
  if (!gaussian) return(out)
  sd <- joint_sd(fit)
  of <- getME(fit, "Gp")
  found <- lapply(seq_along(getME(fit, "cnms")), function(k) sd[(of[k] + 1):of[k + 1]])
  names(found) <- names(getME(fit, "cnms"))
  out$ranef_sd <- lapply(groups, function(g) {
    levels <- rownames(ranef(fit)[[g]])
    setNames(split(found[[g]], rep(seq_along(levels), each = length(found[[g]]) / length(levels))), levels)
  })
  names(out$ranef_sd) <- groups
  c(out, list(sigma = sigma(fit)))
}

for (spec in specs) {
  d <- as.data.frame(get(data(list = spec$data, package = spec$package)))
  frame <- d[intersect(names(d), all.vars(as.formula(spec$formula)))]
  for (k in names(frame)) if (is.factor(frame[[k]])) frame[[k]] <- as.character(frame[[k]])
  if (spec$name == "glmm_bacteria") frame$y <- as.integer(frame$y == "y")
  dir.create(spec$name, showWarnings = FALSE)
  write.csv(frame, file.path(spec$name, "data.csv"), row.names = FALSE, quote = FALSE)
  d <- read.csv(file.path(spec$name, "data.csv"), stringsAsFactors = TRUE)
  criteria <- if (is.null(spec$family)) c(REML = TRUE, ML = FALSE) else c(ML = FALSE)
  reference <- lapply(criteria, function(reml) numbers(best(spec, d, reml), is.null(spec$family)))
  about <- list(name = spec$name, formula = gsub("^", "**", spec$formula, fixed = TRUE),
                family = if (is.null(spec$family)) "gaussian" else "bernoulli",
                source = paste0("R package ", spec$package, " ", packageVersion(spec$package), ", data set ", spec$data, "; ", spec$where),
                licence = "measurements published in the work cited; the package that carries them is GPL (>= 2)",
                software = paste0("R ", getRversion(), ", lme4 ", packageVersion("lme4")))
  write(toJSON(c(about, reference), auto_unbox = TRUE, digits = NA, pretty = FALSE), file.path(spec$name, "case.json"))
}
