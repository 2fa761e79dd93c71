"""Foreign and own file formats to and from the domain. Pure: texts in, records out."""
