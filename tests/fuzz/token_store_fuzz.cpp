// A token store in HDF5.
#include "data/token_store.h"

#include "tests/fuzz/fuzz.h"

FUZZ(input) {
    using namespace fucina;
    const auto path = fuzz::file_of(input, "tokens.h5");
    fuzz::accepts_in_child([&] {
        const TokenStore store = TokenStore::open(path);
        HOLDS(store.tokens() >= 1 && store.documents() >= 1);
        HOLDS(store.tokens() <= std::ssize(input) && store.documents() < std::ssize(input));
        HOLDS(store.vocab_size() >= 1);
        std::vector<int64_t> offsets(static_cast<size_t>(store.documents()) + 1);
        store.read_offsets(0, offsets);
        HOLDS(offsets.front() == 0 && offsets.back() == store.tokens());
        HOLDS(std::is_sorted(offsets.begin(), offsets.end()));
        std::vector<int32_t> ids(static_cast<size_t>(store.tokens()));
        store.read_tokens(0, ids);
        for (const int32_t id : ids) HOLDS(id >= 0 && id < store.vocab_size());
        store.verify();
    });
}
