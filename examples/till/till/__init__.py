"""A till: prices, a basket, a receipt. Small, real, and not quite right yet."""
