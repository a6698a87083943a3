#include "espalier/codec/trellis_train.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdlib>
#include <memory>
#include <numbers>
#include <span>

#include "espalier/base/error.h"
#include "espalier/base/random.h"
#include "espalier/codec/gauss_tables.h"

namespace espalier::codec::detail {
namespace {

constexpr size_t kSamples = 2 * kTrellisMaxSteps * kTrellisLanes;
constexpr int kIterations = 5;
// Weight of the Gaussian guess against the training counts. It fills the tails; at small steps,
// where it is right to .1 % and the counts per symbol are few, it leads.
double prior_weight(double step) { return step > 0.1 ? 0.02 : 4; }

int precision_bits(double step) { return step > 0.1 ? 13 : 14; }

// Level of k: 2k in Q0 (quantizer 0), 2k − sgn k in Q1.
int level_of(int quantizer, int k) { return 2 * k - (quantizer == 0 ? 0 : (k > 0) - (k < 0)); }

std::vector<float> gaussian_quantiles() {
  std::vector<float> x(kSamples);
  for (size_t i = 0; i < kSamples / 2; ++i) {
    const double p = 0.5 + (static_cast<double>(i) + 0.5) / static_cast<double>(kSamples);
    x[2 * i] = static_cast<float>(normal_quantile(p));
    x[2 * i + 1] = -x[2 * i];
  }
  Stream stream(Key(0x7265u));
  stream.shuffle(std::span(x));
  return x;
}

// Gaussian mass of the points nearest to the level of k, roughly: the first guess, and the prior of
// rare symbols.
double guess(int quantizer, int k, double step) {
  const double center = std::abs(level_of(quantizer, k));
  const double low = center == 0 ? (quantizer == 0 ? -1.0 : -0.5)
                                 : center - (quantizer == 1 && center == 1 ? 0.5 : 1.0);
  const double high = center == 0 ? -low : center + 1;
  return normal_cell(low * step, high * step);
}

class Trainer {
 public:
  Trainer(std::span<const float> x, double step, double lambda)
      : x_(x), lambda_(lambda), precision_bits_(precision_bits(step)) {
    design_.step = static_cast<float>(step);
    const double rare = 0.5 / (1 << precision_bits_);
    int reach = 2;
    while (reach < 126 && guess(1, reach + 1, step) > rare) reach += 2;
    design_.reach = reach;
    design_.limit = (2 * reach + 4) * kTrellisUnit;
    weights_.assign(4, std::vector<double>(static_cast<size_t>(2 * reach + 3)));
    y_.resize(kSamples);
    turns_.resize(kSamples);
    trellis_prepare(x.data(), static_cast<float>(kTrellisUnit / step), design_.limit, kSamples,
                    y_.data(), turns_.data());
  }

  TrellisDesign run() && {
    const double step = design_.step;
    const int reach = design_.reach;
    for (size_t state = 0; state < 4; ++state) {
      for (int k = -reach; k <= reach; ++k)
        weights_[state][symbol(k)] = guess(state < 2 ? 0 : 1, k, step);
      for (size_t escape : {size_t{1}, size_t{2}}) {
        weights_[state][static_cast<size_t>(2 * reach) + escape] =
            normal_upper_tail(level_of(1, reach + 1) * step) + 1e-6;
      }
    }
    const auto prior = weights_;
    for (int iteration = 0; iteration < kIterations; ++iteration) {
      make_candidates();
      auto counts = prior;
      for (auto& row : counts) {
        double sum = 0;
        for (const double w : row) sum += w;
        for (double& w : row) w *= prior_weight(step) * kSamples / 4 / sum;
      }
      count_symbols(counts);
      weights_ = counts;
    }
    design_.weights = weights_;
    return std::move(design_);
  }

 private:
  size_t symbol(int k) const { return static_cast<size_t>(k + design_.reach); }

  // Rate cost of k in units², by quantizer: the two states of a quantizer are pooled.
  void make_candidates() {
    const int reach = design_.reach;
    constexpr double kSquareUnits = kTrellisUnit * kTrellisUnit;
    std::array<std::vector<uint32_t>, 2> costs;
    for (size_t q = 0; q < 2; ++q) {
      const auto &first = weights_[2 * q], &second = weights_[2 * q + 1];
      double total = 0;
      for (size_t s = 0; s < first.size(); ++s) total += first[s] + second[s];
      for (size_t s = 0; s < first.size(); ++s) {
        double bits = log2_fixed(total / (first[s] + second[s]));
        if (s > static_cast<size_t>(2 * reach))
          bits = std::min(bits, 14.0) + 10;  // an escape, with its own bytes
        costs[q].push_back(
            static_cast<uint32_t>(std::min(lambda_ * bits * kSquareUnits + 0.5, 65535.0)));
      }
    }
    const int cells = (2 * design_.limit >> kTrellisCellShift) + 1;
    design_.candidates.resize(static_cast<size_t>(4 * cells));
    for (int cell = 0; cell < cells; ++cell) {
      const int center = (cell << kTrellisCellShift) + (1 << kTrellisCellShift) / 2 - design_.limit;
      for (int kind = 0; kind < 4; ++kind) {
        const int quantizer = kind / 2, parity = kind % 2;
        const int nearest =
            static_cast<int>(std::floor(static_cast<double>(center) / (2 * kTrellisUnit) + 0.5));
        int64_t best_cost = INT64_MAX;
        uint32_t best = 0;
        // Values of this parity around the nearest, and zero, which is cheap.
        for (int offset = -3; offset <= 4; ++offset) {
          const int k = offset == 4 ? 0 : nearest + offset;
          if ((k & 1) != parity) continue;
          const int level = level_of(quantizer, k);
          const int error = center - level * kTrellisUnit;
          if (std::abs(error) > 6 * kTrellisUnit) continue;
          const size_t s =
              std::abs(k) <= reach ? symbol(k) : static_cast<size_t>(2 * reach + 2 - parity);
          const uint32_t rate = costs[static_cast<size_t>(quantizer)][s];
          const int64_t cost = int64_t{error} * error + rate;
          if (cost < best_cost) {
            best_cost = cost;
            best = static_cast<uint32_t>(level) << 16 | rate;
          }
        }
        design_.candidates[static_cast<size_t>(4 * cell + kind)] = best;
      }
    }
  }

  // Encodes the samples; adds the symbols to `counts`, mirrored; measures rate and error.
  void count_symbols(std::vector<std::vector<double>>& counts) {
    const auto scratch = std::make_unique_for_overwrite<TrellisScratch>();
    constexpr size_t kFrame = kTrellisMaxSteps * kTrellisLanes;
    std::vector<int16_t> levels(kFrame);
    std::vector<uint8_t> states(kFrame);
    std::vector<uint16_t> joint(kFrame), all;
    std::vector<float> values(kFrame);
    double product = 0, square = 0, energy = 0;
    for (size_t begin = 0; begin < kSamples; begin += kFrame) {
      trellis_search(design_.table(), y_.data() + begin, kTrellisMaxSteps, *scratch, levels.data(),
                     states.data());
      trellis_symbols(levels.data(), states.data(), design_.reach, kFrame, joint.data(),
                      values.data());
      for (size_t i = 0; i < kFrame; ++i) {
        const double x = x_[begin + i];
        const double level = values[i] + 4.0f * static_cast<float>(turns_[begin + i]);
        product += x * level;
        square += level * level;
        energy += x * x;
      }
      all.insert(all.end(), joint.begin(), joint.end());
    }
    const auto last = static_cast<size_t>(2 * design_.reach);
    for (const uint16_t whole : all) {
      const size_t s = whole & 0xFF;
      counts[whole >> 8][s] += 0.5;
      counts[whole >> 8][s <= last ? last - s : s] += 0.5;
    }
    const EntropyModel model(counts, precision_bits_);
    design_.rate = 0;
    for (const uint16_t whole : all) {
      design_.rate += precision_bits_ - log2_fixed(model.frequency(whole >> 8, whole & 0xFF));
      if ((whole & 0xFF) > last) design_.rate += 8;  // the escape's byte
    }
    design_.rate /= kSamples;
    design_.error = 1 - (square > 0 ? product * product / square / energy : 0);
  }

  std::span<const float> x_;
  double lambda_;
  int precision_bits_;
  TrellisDesign design_;
  std::vector<std::vector<double>> weights_;
  std::vector<int32_t> y_, turns_;
};

}  // namespace

EntropyModel TrellisDesign::model() const { return EntropyModel(weights, precision_bits(step)); }

// Best of a scan over .15 … 2 at ten rates: .5 at 3 bits and above, .8 at 1 bit, .9 below; flat
// within a tenth. Theory for high rates says 1.386 · error = .37; the search gains by being a
// little greedier for cheap symbols.
double trellis_lambda(double bits) { return std::clamp(0.95 - 0.15 * bits, 0.5, 0.9); }

TrellisDesign design_trellis(double bits, double lambda) {
  ESPALIER_CHECK(bits >= 0.25 && bits <= 7, bits);
  const std::vector<float> x = gaussian_quantiles();
  const auto train = [&](double log_step) {
    return Trainer(x, exp_fixed(log_step * std::numbers::ln2), lambda).run();
  };
  // Secant method for the rate in log2 Δ; it falls about one bit per octave.
  double x0 = 1.0 - bits;
  TrellisDesign best = train(x0);
  double f0 = best.rate - bits, x1 = x0 + f0;
  for (int i = 0; i < 12; ++i) {
    TrellisDesign next = train(x1);
    const double f1 = next.rate - bits;
    if (std::abs(f1) < std::abs(best.rate - bits)) best = std::move(next);
    if (std::abs(f1) < 1e-3 || f1 == f0) break;
    const double move = std::clamp(-f1 * (x1 - x0) / (f1 - f0), -0.7, 0.7);
    x0 = x1;
    f0 = f1;
    x1 += move;
  }
  return best;
}

}  // namespace espalier::codec::detail
