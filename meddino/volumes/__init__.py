"""Reading volumes of any format: one grid, one orientation, Hounsfield units."""
