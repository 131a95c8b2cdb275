#include "model/families.h"

namespace fucina {

std::span<const Family> families() {
    static const Family known[] = {
        {"deepseek_v3", deepseek_v3::read_config, deepseek_v3::write_config, deepseek_v3::weights},
    };
    return known;
}

const Family* find_family(std::string_view model_type) {
    for (const Family& family : families())
        if (family.model_type == model_type) return &family;
    return nullptr;
}

}  // namespace fucina
