"""Panels: widgets bound to figures and trainings. No mathematics and no training code lives here."""
