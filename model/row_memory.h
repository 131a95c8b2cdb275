// The memory of rows of a pass's activations, of each kind that model/pass_context.h has.
#pragma once
#include <cstdint>
#include <utility>

#include "model/pass_timeline.h"

namespace fucina {

class RowMemory {
  public:
    RowMemory(const PassShape& shape, Timeline& timeline) : shape_(shape), timeline_(timeline) {}

    // Of stream, whole and own rows.
    Held activations(int64_t columns) const { return hold(stream_rows(), columns, element()); }
    Held fp32(int64_t columns) const { return hold(stream_rows(), columns, 4); }
    Held whole(int64_t columns) const { return hold(shape_.tokens, columns, element()); }
    Held whole_fp32(int64_t columns) const { return hold(shape_.tokens, columns, 4); }
    Held own(int64_t columns) const { return hold(own_rows(), columns, element()); }
    Held own_fp32(int64_t columns) const { return hold(own_rows(), columns, 4); }
    // Copies that an exchange makes, if it makes any.
    Held whole_of_stream(int64_t columns) const {
        return shape_.sequence ? whole(columns) : nullptr;
    }
    Held stream_of_own(Held own, int64_t columns) const {
        return shape_.tensor > 1 && !shape_.sequence ? whole(columns) : own;
    }
    // Own rows of a product that ranks have parts of.
    Held sum_linear(int64_t columns) const {
        if (shape_.tensor == 1) return whole(columns);
        Held sent = whole_fp32(columns);
        return sum_rows(std::move(sent), columns);
    }
    Held sum_rows(Held partial, int64_t columns) const {
        if (shape_.leaves > 1) partial = whole_fp32(columns);
        const Held received = whole_fp32(columns);
        return own(columns);
    }

  protected:
    int64_t element() const { return size_of(shape_.compute); }

    Held hold(int64_t rows, int64_t columns, int64_t element) const {
        return timeline_.hold(rows * columns * element);
    }
    int64_t own_rows() const { return shape_.tokens / shape_.tensor; }

    const PassShape& shape_;
    Timeline& timeline_;

  private:
    int64_t stream_rows() const { return shape_.sequence ? own_rows() : shape_.tokens; }
};

}  // namespace fucina
