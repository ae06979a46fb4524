"""taxi-elt: months of NYC yellow-taxi trips from the published file to a tested table, in the order the data takes.

fetch -> read -> land -> transform -> report; `flows` puts them together and `cli` is the front to the flows.
"""
