"""What estimators are made of: tables of counts, Poisson averages, and histograms' sums."""
