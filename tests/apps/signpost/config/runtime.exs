import Config

if config_env() == :prod do
  secret_key_base =
    System.get_env("SECRET_KEY_BASE") ||
      raise "the variable SECRET_KEY_BASE is missing: `openssl rand -base64 48` makes one"

  config :signpost,
    port: String.to_integer(System.fetch_env!("PORT")),
    secret_key_base: secret_key_base
end
