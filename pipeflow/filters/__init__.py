"""SNS filter policies: one grammar and one matcher for topics, doors and the command line (SNS: T31-T49).

policy text --grammar--> alternatives of (path, rule) pairs --matching--> a compiled Filter
where(kind="placed"), num(">", 100), ...  are the same policies in Python clothes  (writing)
attempt>2,error=ValueError                is the same policy on one line           (asking)
"""

from __future__ import annotations

from pipeflow.filters.asking import Viewable, parse_where, view
from pipeflow.filters.grammar import EVALUATION_BUDGET
from pipeflow.filters.matching import Filter, Subject, check_filter, compile_filter
from pipeflow.filters.writing import (
    Rule,
    anything_but,
    cidr,
    equals_ignore_case,
    exists,
    num,
    prefix,
    suffix,
    where,
    where_body,
    wildcard,
)

__all__ = [
    "check_filter",
    "compile_filter",
    "Filter",
    "Subject",
    "EVALUATION_BUDGET",
    "where",
    "where_body",
    "Rule",
    "num",
    "prefix",
    "suffix",
    "anything_but",
    "exists",
    "cidr",
    "wildcard",
    "equals_ignore_case",
    "view",
    "Viewable",
    "parse_where",
]
