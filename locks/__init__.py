"""What `make setup` installs, to the last package and byte: how that is renewed, and under which licences it is."""
