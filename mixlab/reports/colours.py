"""Colours that colour-blind people can tell apart, on light and dark pages, and the dashes of lines."""

# Okabe and Ito, Color Universal Design, 2008. Yellow is left out: it does not show on white. Orange and vermillion
# stand apart, and each series also gets a dash of its own.
BLUE = "#0072B2"
ORANGE = "#E69F00"
GREEN = "#009E73"
VERMILLION = "#D55E00"
PURPLE = "#CC79A7"
SKY = "#56B4E9"
GREY = "#8C8C8C"  # readable on white and on black

SERIES = (BLUE, ORANGE, GREEN, VERMILLION, PURPLE, SKY)
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
