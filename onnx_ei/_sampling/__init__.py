"""What sampling is made of: parameters, seeded sources, stages, quantities, the engine."""
