"""What things cost, measured beside the peer that is replaced; every row lands in ledger.csv."""
