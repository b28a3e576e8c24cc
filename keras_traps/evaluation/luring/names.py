"""What the variants are called in reports and figures."""

NAMES = {
    "target": "M",
    "surrogate": "An attacker's own M",
    "stack": "Stack",
    "auto": "Auto",
    "ce": "C_E",
    "luring": "Luring",
}
"""What the paper calls them."""
