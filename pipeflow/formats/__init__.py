"""From records to the bytes of objects, and back: rows, columns, text, compression."""
