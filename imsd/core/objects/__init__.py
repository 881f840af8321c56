"""What projects do with the objects of their buckets, beside importing and exporting them."""
