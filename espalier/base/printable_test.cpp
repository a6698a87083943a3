#include "espalier/base/printable.h"

#include <gtest/gtest.h>

namespace espalier {
namespace {

TEST(Printable, ControlCharactersOfBothSetsBecomeQuestionMarks) {
  EXPECT_EQ(printable("a\x1b[2J\nb\x7f é \xc2\x9b"), "a?[2J?b? é ??");
}

}  // namespace
}  // namespace espalier
