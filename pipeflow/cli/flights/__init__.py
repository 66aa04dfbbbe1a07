"""A month of real flights, and the app that `pipeflow demo` runs on them."""
