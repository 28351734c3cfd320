"""Word problems in multiplication, and a calculator that the policy may use."""
