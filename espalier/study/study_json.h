#pragma once

#include <vector>

#include "espalier/study/results.h"

// study.json: everything that the table and the page are made from, and more.
namespace espalier::study {

// {"name", "version", "base", "seeds", "targets", "variants": [{"name", "baseline", "set", "n",
//   "figures": {figure: {"by_seed", "mean", "sd", "ratio"}}, "difference": {"n", "mean", "low",
//   "high"}, "targets": [{"accuracy", "reached", "of", "rounds", "bytes_down", "bytes_up", "macs",
//   "seconds"}], "curve": [{"round", "n", "accuracy", "sd", "bytes"}]}], "cells": […], "pareto":
//   [names], "notes"}.
// Accuracies and their differences are fractions. Whatever could not be said is null.
Json study_json(const Study& study, const std::vector<Cell>& cells, const std::vector<Found>& found,
                const Results& results);

// The cells alone, as --dry-run lists them.
Json cells_json(const std::vector<Cell>& cells, const std::vector<Found>& found);

// Means over the seeds of the evaluations that all finished seeds of a variant have.
struct MeanEvaluation {
  double round = 0, bytes = 0;
  Moments accuracy;
};
std::vector<MeanEvaluation> mean_curve(const VariantResult& result);

// Of the variants with bytes and accuracy: indices on the front of accuracy (StudyOptions::compare)
// against all bytes of a run, cheapest first.
std::vector<size_t> pareto_of(const Study& study, const Results& results);

}  // namespace espalier::study
