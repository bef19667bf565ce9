"""Figures: pure functions from data to plotly figures, and the sentences that say what they show."""
