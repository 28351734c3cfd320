"""Word problems in addition and subtraction, and a model that has seen nothing yet."""
