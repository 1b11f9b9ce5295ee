"""Types, errors, files, settings and statistics, without torch or an environment."""
