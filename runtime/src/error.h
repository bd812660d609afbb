// The one exception of this library: a sentence for the user.
#ifndef POCKETFORMER_ERROR_H_
#define POCKETFORMER_ERROR_H_

#include <stdexcept>

namespace pocketformer {

struct Error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

}  // namespace pocketformer

#endif  // POCKETFORMER_ERROR_H_
