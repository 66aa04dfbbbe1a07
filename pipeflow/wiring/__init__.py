"""From signatures to calls: what functions need is read when they are decorated and compiled when the app starts."""
