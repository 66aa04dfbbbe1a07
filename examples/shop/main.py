"""The one place that knows every module: `pipeflow run main:app`."""

import invoicing
from shop import app

app.include(invoicing.router)
