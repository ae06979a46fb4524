"""What a run did, told to people: collected from the warehouse and dbt's results, then rendered."""
