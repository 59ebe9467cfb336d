"""How a user would notice that the services work: one module per service, each proof one function."""
