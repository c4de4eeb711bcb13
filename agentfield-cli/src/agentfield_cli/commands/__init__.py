"""The commands of `af`, a module a command group, each imported when it is used."""
