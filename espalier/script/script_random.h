#pragma once

#include <memory>
#include <string>

#include "espalier/base/random.h"

// Random numbers inside a module (dropout, rand, bernoulli, multinomial, …) follow our keys. Free
// of libtorch.
namespace espalier::script {

// While it lives, every random operator that this thread runs on the processor draws from a
// generator of its own that begins at the key: the same operators draw the same numbers whatever
// other threads do and whatever was drawn before. libtorch's default generator, which all threads
// share, is neither used nor changed. One at a time in a thread.
//
// How: operators that take a generator are given this thread's at a dispatch key that is included
// while a RandomScope lives; those without the argument (rand, dropout) are made of those that have
// it. No operator costs more otherwise.
//
// On a GPU the default generator is seeded instead, under a lock: some of libtorch's kernels ask
// for it by name.
class RandomScope {
 public:
  RandomScope(Key key, bool cpu);
  ~RandomScope();
  RandomScope(const RandomScope&) = delete;
  RandomScope& operator=(const RandomScope&) = delete;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace espalier::script
