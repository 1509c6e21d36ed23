"""Files <-> Study. This package knows no torch."""
