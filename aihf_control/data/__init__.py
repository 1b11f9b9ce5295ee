"""Datasets: making, importing, checking and showing them."""
