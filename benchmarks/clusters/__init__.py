"""What a cluster costs and gives, measured on one machine, and what that means for many."""
