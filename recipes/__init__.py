"""Scripts to train, attack, reproduce a table and export."""
