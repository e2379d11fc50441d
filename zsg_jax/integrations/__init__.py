"""Other people's trainers, fed and checked in the order of an arrangement."""
