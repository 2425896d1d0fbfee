-- 法人办事表单预填
SELECT
    uscc,
    name,
    legal_rep_name,
    reg_address,
    reg_address_division,
    scope,
    substr(phone, 1, 3) || '****' || substr(phone, 8, 4) AS phone
FROM enterprise
