"""Types, errors, files, settings and statistics: needs neither torch nor an environment."""
