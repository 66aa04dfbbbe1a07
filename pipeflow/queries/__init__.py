"""Expressions over JSON records: the part of jq that partition keys need, evaluated without jq.

An expression answers once or not at all. What it may do is bounded when it is declared (length, parts, nesting) and
when it runs (steps, sizes, nesting of the record); it reads nothing but its record, so equal records answer alike.

It agrees with jq 1.6 and later, but for this:

- Numbers are written as the shortest text of their value: `1.0` and `1e2` in a record are `1` and `100`, as in jq 1.6,
  where later versions keep how they were spelt; so is the sign of zero. Integers keep all their digits, as from jq 1.7
  on.
- Operators in the values of an object and `if` without `else` are taken, as from jq 1.7 on.
- Where versions of jq differ, there is no answer: text times number, `ltrimstr` with a number, `tonumber` of anything
  but a JSON number (leading zeros are passed over). `join` takes arrays, and its separator is a text.
- Records are JSON: `NaN` and numbers beyond 1.8e308 are not.
- Times go from year 1 to 9999, names are English. `%Z` is `UTC`. `strptime` needs year, month and day, and matches the
  whole text; a date needs six parts. Letters that differ between systems are refused.
- Nothing that answers many times, reads other input or keeps variables is taken.
"""

from pipeflow.queries.declaring import MAX_KEYS, key_queries
from pipeflow.queries.extraction import Extraction, key_text
from pipeflow.queries.parsing import Unsupported
from pipeflow.queries.values import QueryError

__all__ = ["MAX_KEYS", "Extraction", "QueryError", "Unsupported", "key_queries", "key_text"]
