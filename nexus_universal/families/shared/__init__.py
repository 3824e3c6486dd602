"""What families are made with: the reader of configs, one spelling for them, and tables that many share."""
