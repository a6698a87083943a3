#pragma once

#include <algorithm>
#include <initializer_list>
#include <memory>
#include <span>
#include <utility>

#include "espalier/params/parameter_set.h"

namespace espalier::data {

// The inputs of a data set: a vector of its own, or somebody else's memory that is only looked at
// (a NumPy array's, say). Whoever changes borrowed values gets a copy of his own first. Copies of
// borrowed values share them. As std::vector otherwise.
template <class T>
class Values {
 public:
  using value_type = T;
  using difference_type = std::ptrdiff_t;

  Values() = default;
  Values(std::initializer_list<T> values) : own_(values) {}
  Values(AlignedVector<T> values) : own_(std::move(values)) {}
  // `owner` keeps the memory alive; nobody may change it as long as it is used.
  static Values borrow(std::span<const T> values, std::shared_ptr<const void> owner) {
    Values out;
    out.view_ = values;
    out.owner_ = std::move(owner);
    return out;
  }
  bool borrowed() const { return owner_ != nullptr; }

  size_t size() const { return borrowed() ? view_.size() : own_.size(); }
  bool empty() const { return size() == 0; }
  const T* data() const { return borrowed() ? view_.data() : own_.data(); }
  const T& operator[](size_t i) const { return data()[i]; }
  const T* begin() const { return data(); }
  const T* end() const { return data() + size(); }

  T* data() { return mine().data(); }
  T& operator[](size_t i) { return mine()[i]; }
  T* begin() { return mine().data(); }
  T* end() { return begin() + size(); }
  void resize(size_t size) { mine().resize(size); }
  void reserve(size_t size) { mine().reserve(size); }
  void push_back(const T& value) { mine().push_back(value); }
  void pop_back() { mine().pop_back(); }
  void clear() { mine().clear(); }
  template <class Iterator>
  void assign(Iterator first, Iterator last) {
    mine().assign(first, last);
  }
  template <class Iterator>
  void insert(const T* where, Iterator first, Iterator last) {
    const auto at = where - std::as_const(*this).begin();
    mine().insert(mine().begin() + at, first, last);
  }
  // `count` values from `first` on stay.
  void keep(size_t first, size_t count) {
    if (borrowed()) {
      view_ = view_.subspan(first, count);
      return;
    }
    own_.erase(own_.begin(), own_.begin() + static_cast<std::ptrdiff_t>(first));
    own_.resize(count);
  }
  friend bool operator==(const Values& a, const Values& b) {
    return std::equal(a.begin(), a.end(), b.begin(), b.end());
  }

 private:
  AlignedVector<T>& mine() {
    if (borrowed()) {
      own_.assign(view_.begin(), view_.end());
      owner_ = nullptr;
    }
    return own_;
  }

  AlignedVector<T> own_;
  std::span<const T> view_;
  std::shared_ptr<const void> owner_;
};

}  // namespace espalier::data
