import subprocess,time,json,urllib.request,sys,re,os
which=sys.argv[1]
dbu='sqlite:/tmp/atk/dv/m.db' if which=='s' else 'postgres://postgres@127.0.0.1:55432/atk_m'
f=f'/tmp/atk/dv/m{which}.cstack'
steps=[
('no audit','model Item {\n id Int @id @default(autoincrement())\n name String\n secret String?\n @@allow("all", true)\n}'),
('add audit','model Item {\n id Int @id @default(autoincrement())\n name String\n secret String?\n @@audit\n @@allow("all", true)\n @@allow("audit", true)\n}'),
('server_only','model Item {\n id Int @id @default(autoincrement())\n name String\n secret String? @server_only\n @@audit\n @@allow("all", true)\n @@allow("audit", true)\n}'),
('rename secret','model Item {\n id Int @id @default(autoincrement())\n name String\n hidden String? @server_only @map("secret")\n @@audit\n @@allow("all", true)\n @@allow("audit", true)\n}'),
('rename model, same table','model Thing {\n id Int @id @default(autoincrement())\n name String\n hidden String? @server_only @map("secret")\n @@map("items")\n @@path("items")\n @@audit\n @@allow("all", true)\n @@allow("audit", true)\n}'),
('rename table','model Thing {\n id Int @id @default(autoincrement())\n name String\n hidden String? @server_only @map("secret")\n @@path("items")\n @@audit\n @@allow("all", true)\n @@allow("audit", true)\n}'),
('type change','model Thing {\n id Int @id @default(autoincrement())\n name Int?\n hidden String? @server_only @map("secret")\n @@path("items")\n @@audit\n @@allow("all", true)\n @@allow("audit", name > 3)\n}'),
('back','model Thing {\n id Int @id @default(autoincrement())\n name String?\n extra Decimal? @unique\n @@path("items")\n @@audit\n @@allow("all", true)\n @@allow("audit", true)\n}'),
('remove audit','model Thing {\n id Int @id @default(autoincrement())\n name String?\n extra Decimal? @unique\n @@path("items")\n @@allow("all", true)\n}'),
('add again','model Thing {\n id Int @id @default(autoincrement())\n name String?\n extra Decimal? @unique\n @@path("items")\n @@audit(denials)\n @@soft_delete\n @@allow("all", true)\n @@allow("audit", true)\n}'),
('pii','model Thing {\n id Int @id @default(autoincrement())\n name String? @pii\n extra Decimal? @unique\n @@path("items")\n @@audit(denials)\n @@soft_delete\n @@allow("all", true)\n @@allow("audit", true)\n}'),
]
open(f,'w').write(steps[0][1])
p=subprocess.Popen(['./cs','dev',f,'--database',dbu,'--addr','127.0.0.1:0'],stdout=open(f'dv/{which}.log','w'),stderr=subprocess.STDOUT)
time.sleep(2)
url=re.search(r'http://[0-9.:]+',open(f'dv/{which}.log').read()).group(0)
def call(m,path,b=None):
    r=urllib.request.Request(url+path,data=json.dumps(b).encode() if b is not None else None,method=m,headers={'content-type':'application/json'})
    try: x=urllib.request.urlopen(r,timeout=20); return x.status,json.loads(x.read() or 'null')
    except urllib.error.HTTPError as e: return e.code,json.loads(e.read())
def nev():
    if which=='s':
        import apsw; 
        try: return list(apsw.Connection('dv/m.db').execute('select count(*), max(entry) from (select entry from cratestack_audit order by seq)'))[0][0]
        except Exception as e: return str(e)
    return subprocess.run(['psql','-XAtc','select count(*) from cratestack_audit','postgres://postgres@127.0.0.1:55432/atk_m'],capture_output=True,text=True).stdout.strip()
for i,(n,s) in enumerate(steps):
    if i: open(f,'w').write(s); time.sleep(2.5)
    b={'name':f'v{i}' if 'type' not in n else 7}
    if i<2: b['secret']='SEKRET%d'%i
    st,t=call('POST','/api/items',b); s2,t2=call('GET','/api/audit')
    it=t2.get('items') if s2==200 else t2.get('detail')
    print(i,n,'POST',st,t if st>201 else '', 'audit',s2,[(e['model'],e['operation'],e['changed'],e['after']) for e in it] if s2==200 else it,'events',nev())
p.terminate(); p.wait()
print(open(f'dv/{which}.log').read()[-2500:])
