"""Tables, figures and pages of finished runs. Needs neither torch nor an environment."""
