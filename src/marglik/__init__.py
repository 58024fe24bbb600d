"""Learn the hyperparameters of a Bayesian model by maximising its marginal likelihood."""
