"""Group-relative policy optimisation: our own learner, loss and driver."""
